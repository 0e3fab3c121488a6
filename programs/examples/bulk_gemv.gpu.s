; y = x W as in gemv.gpu.s, but W [k, outputs] comes in bulk copies of 8 rows into two buffers: while the warp
; sums the rows of one, the other is being filled. An mbarrier says when a buffer is full.
.chip   toy_gpu
.data   W f32 [64,32] random 1
.data   x f32 [1,64]  random 2
.data   y f32 [1,32]
.const  CHUNK = 1024               ; bytes: 8 rows of 32 floats
.const  BARS  = 2048               ; shared memory: buffer 0, buffer 1, mbarrier 0, mbarrier 1
.kernel bulk_gemv(W, x, y, end)
.reg    lane, at, w, v, sum = 0.0
.ureg   size = CHUNK, buffer = 0, full = BARS, both = 2*BARS+8, n = 0, phase, stop, copied
        MBINIT  [full], 1          ; one warp arrives ...
        MBINIT  [full + 8], 1
        MBARRIVE [full], size      ; ... and says how many bytes will come
        BULK    buffer, [W], size, [full]
        MBARRIVE [full + 8], size
        BULK    size, [W + CHUNK], size, [full + 8]
        UADDI   W, W, 2*CHUNK
        UADDI   copied, x, 64      ; 16 rows, 16 values of x
        S2R     lane, LANEID
        SHL     lane, lane, 2
loop:   USHR    phase, n, 1        ; every second chunk uses this buffer: its phases alternate
        MBWAIT  [full], phase
        ADD.s32 at, lane, buffer
        UADDI   stop, x, 32
row:    LDS.32  w, [at]            ; element [k, lane]
        LDG.32  v, [x]             ; element k, the same for every lane
        FMA.f32 sum, w, v, sum
        ADDI.s32 at, at, 128
        UADDI   x, x, 4
        UBR.LT  x, stop, row
        UBR.GE  copied, end, swap  ; nothing is left to copy
        MBARRIVE [full], size
        BULK    buffer, [W], size, [full]
        UADDI   W, W, CHUNK
        UADDI   copied, copied, 32
swap:   USUB    buffer, size, buffer
        USUB    full, both, full
        UADDI   n, n, 1
        UBR.LT  x, end, loop
        STG.32  [y + lane], sum
.launch bulk_gemv 1 32 BARS+16 (W, x, y, x+256)
.expect y (x @ W) 1e-4
