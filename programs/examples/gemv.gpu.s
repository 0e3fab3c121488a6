; y = x W with W [k, outputs]: a lane owns an output, so that a warp reads 128 neighbouring bytes of W.
.chip   toy_gpu
.data   W f32 [64,32] random 1
.data   x f32 [1,64]  random 2
.data   y f32 [1,32]
.kernel gemv(W, x, y, end)
.reg    at, w, v, sum = 0.0
        S2R     at, LANEID
        SHL     at, at, 2
loop:   LDG.32  w, [W + at]       ; element [k, lane]
        LDG.32  v, [x]            ; element k, the same for every lane
        FMA.f32 sum, w, v, sum
        UADDI   W, W, 128         ; next row of 32 floats
        UADDI   x, x, 4
        UBR.LT  x, end, loop
        STG.32  [y + at], sum
.launch gemv 1 32 0 (W, x, y, x+256)
.expect y (x @ W) 1e-4
