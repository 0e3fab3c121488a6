; y = x W as in gemv.gpu.s, by four warps: warp w owns outputs 32 w to 32 w + 31.
.chip   toy_gpu
.data   W f32 [64,128] random 1
.data   x f32 [1,64]   random 2
.data   y f32 [1,128]
.kernel gemv_warps(W, x, y, end)
.reg    at, w, v, sum = 0.0
        S2R     at, WARPID
        S2R     w, LANEID
        SHL     at, at, 5
        ADD.s32 at, at, w
        SHL     at, at, 2         ; this lane's output, in bytes
loop:   LDG.32  w, [W + at]       ; element [k, output]
        LDG.32  v, [x]            ; element k, the same for every lane
        FMA.f32 sum, w, v, sum
        UADDI   W, W, 512         ; next row of 128 floats
        UADDI   x, x, 4
        UBR.LT  x, end, loop
        STG.32  [y + at], sum
.launch gemv_warps 1 128 0 (W, x, y, x+256)
.expect y (x @ W) 1e-4
