; RMSNorm: y = x / sqrt(mean(x * x) + 1e-5) * w, fp32, 256 elements, two warps of one CTA.
;
; Each warp adds up its own squares; the two sums meet in shared memory behind a barrier.
.chip   toy_gpu
.data   x f32 [1,256] random 1
.data   w f32 [1,256] random 2 0.5 2
.data   y f32 [1,256]

.kernel rmsnorm(x, w, y)
.reg    at, warp, v[4], scale[4], sum, other
.pred   first
        S2R     at, LANEID
        SETP.EQ.s32 first, at, URZ
        S2R     warp, WARPID
        SHL     other, warp, 5
        ADD.s32 at, at, other           ; thread 0 .. 63
        SHL     at, at, 4               ; four elements a thread
        SHL     warp, warp, 2
        LDG.128 v, [x + at]
        LDG.128 scale, [w + at]         ; early: it arrives while the squares are added

; sum of squares of the warp
        MUL.f32 sum, v[0], v[0]
        FMA.f32 sum, v[1], v[1], sum
        FMA.f32 sum, v[2], v[2], sum
        FMA.f32 sum, v[3], v[3], sum
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

; of the CTA: each warp leaves its sum in shared memory
@first  STS.32  [warp], sum
        BAR
        LDS.32  sum, [0]
        LDS.32  other, [4]
        ADD.f32 sum, sum, other
        MULI.f32 sum, sum, 0.00390625   ; / 256
        ADDI.f32 sum, sum, 1e-5
        RSQRT.f32 sum, sum

        MUL.f32 v[0], v[0], sum
        MUL.f32 v[1], v[1], sum
        MUL.f32 v[2], v[2], sum
        MUL.f32 v[3], v[3], sum
        MUL.f32 v[0], v[0], scale[0]
        MUL.f32 v[1], v[1], scale[1]
        MUL.f32 v[2], v[2], scale[2]
        MUL.f32 v[3], v[3], scale[3]
        STG.128 [y + at], v

.launch rmsnorm 1 64 8 (x, w, y)        ; 64 threads, 8 bytes of shared memory
.expect y (x / sqrt(mean(x * x) + 1e-5) * w) 1e-5
