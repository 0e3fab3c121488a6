; Dot product of two fp32 vectors of 512 elements: one warp, 16 bytes a lane and step.
.chip   toy_gpu
.data   a f32 [1,512] random 1
.data   b f32 [1,512] random 2
.data   y f32 [1,1]

.kernel dot(a, b, y, end)
.reg    at, va[4], vb[4], sum = 0.0, other
.pred   first
        S2R     at, LANEID
        SETP.EQ.s32 first, at, URZ    ; lane 0 writes the result
        SHL     at, at, 4             ; 16 bytes a lane: a warp reads 512 bytes at once
loop:   LDG.128 va, [a + at]
        LDG.128 vb, [b + at]
        FMA.f32 sum, va[0], vb[0], sum
        FMA.f32 sum, va[1], vb[1], sum
        FMA.f32 sum, va[2], vb[2], sum
        FMA.f32 sum, va[3], vb[3], sum
        UADDI   a, a, 512
        UADDI   b, b, 512
        UBR.LT  a, end, loop

; add up the lanes: after XOR 16, 8, 4, 2, 1 every lane has the sum of all
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
@first  STG.32  [y], sum

.launch dot 1 32 0 (a, b, y, a+2048)  ; 1 CTA of 32 threads, no shared memory; 512 x 4 bytes
.expect y (a @ b) 1e-4
