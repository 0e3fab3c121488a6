; Dot product of two fp16 vectors of 320 elements: one weight row of a matrix plane.
; a becomes the only row of the plane pair 2 and 3, b is fed through it.
.chip   groq_tsp_v1
.data   a f16 [1,320] random 1 @E0:E1          ; low bytes in slice E0, high bytes in E1
.data   b f16 [1,320] random 2 @E4:E5
.data   y f32 [1,1]            @E8:E11

a:        READ    S0.E         arrive 20 MXM2  ; streams S0 and S1, eastward
MXM2.LW:  LW.f16  S0.E, 1, 0   at 20           ; one row, row 0, into the shadow weights
MXM2.LW:  IW.f16               at 21           ; installed
b:        READ    S0.E         arrive 21 MXM2  ; one cycle behind a on the same streams
MXM2.ABC: ABC.f16 S0.E         at 21
MXM2.ACC: ACC     S0.W         at 62           ; 40 cycles, and one more because fp16 is fed for two
y:        WRITE   S0.W         leave 62 MXM2   ; four streams: fp32; lane 0 is output 0

.expect   y (a @ b) 1e-5
; ACC in 62 at column 18, y at column 3: WRITE in 77, done in 78; superlane 19 is 19 cycles behind.
.expect   cycles 97
