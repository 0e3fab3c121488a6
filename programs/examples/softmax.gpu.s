; Softmax of 64 scores in one warp: y = exp(x - max) / sum(exp(x - max)).
;
; A maximum or a sum over lanes is five exchanges: with the lane 16 away, 8, 4, 2 and 1.
.chip   toy_gpu
.data   x f32 [1,64] random 1 -4 4
.data   y f32 [1,64]

.kernel softmax(x, y)
.reg    at, v[2], top, sum, other
        S2R     at, LANEID
        SHL     at, at, 3               ; two scores a lane
        LDG.64  v, [x + at]

; the largest score, in every lane
        MAX.f32 top, v[0], v[1]
        SHFL    other, top, 16
        MAX.f32 top, top, other
        SHFL    other, top, 8
        MAX.f32 top, top, other
        SHFL    other, top, 4
        MAX.f32 top, top, other
        SHFL    other, top, 2
        MAX.f32 top, top, other
        SHFL    other, top, 1
        MAX.f32 top, top, other

; exp(v - top) = 2 ** ((v - top) * log2 e)
        SUB.f32 v[0], v[0], top
        SUB.f32 v[1], v[1], top
        MULI.f32 v[0], v[0], 1.442695
        MULI.f32 v[1], v[1], 1.442695
        EXP2.f32 v[0], v[0]
        EXP2.f32 v[1], v[1]

; their sum, in every lane; one reciprocal instead of two divisions
        ADD.f32 sum, v[0], v[1]
        SHFL    other, sum, 16
        ADD.f32 sum, sum, other
        SHFL    other, sum, 8
        ADD.f32 sum, sum, other
        SHFL    other, sum, 4
        ADD.f32 sum, sum, other
        SHFL    other, sum, 2
        ADD.f32 sum, sum, other
        SHFL    other, sum, 1
        ADD.f32 sum, sum, other
        RCP.f32 sum, sum
        MUL.f32 v[0], v[0], sum
        MUL.f32 v[1], v[1], sum
        STG.64  [y + at], v

.launch softmax 1 32 0 (x, y)
.expect y (exp(x) / sum(exp(x))) 1e-6
