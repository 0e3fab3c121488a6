; RMSNorm: y = x / sqrt(mean(x * x) + 1e-5) * w, fp32, 320 elements.
;
; A sum over lanes is a matrix product: a tile of ones gives the sum of its input in every output lane.
; The squares are rounded to fp16 for it. There is no divide: 1 / sqrt is one instruction.
.chip   groq_tsp_v1
.data   x    f32 [1,320]  random 1       @W0:W3
.data   w    f32 [1,320]  random 2 0.5 2 @W4:W7
.data   ones f16 [16,320] 1              @E12:E43      ; 16 rows side by side; loaded 20 times over
.data   y    f32 [1,320]                 @E0:E3

; the tile of ones, in place just before the squares arrive
ones:     READ     S0.E                arrive 27 MXM2 x20 step 0
MXM2.LW:  LW.f16   S0.E, 16, 0         at 27 x20
MXM2.LW:  IW.f16                       at 47

; squares: x times itself, to fp16, east to the plane
x:        READ     S0.E                arrive 20 VXM
VXM0:     MUL.f32  _, S0.E, S0.E       at 20           ; 4 cycles of entry + 3: out in 27
VXM5:     CVT.f16.f32 S16.E, A0        at 27           ; chained: 3 cycles, on column 1 in 30
MXM2.ABC: ABC.f16  S16.E               at 47           ; 17 hops later
MXM2.ACC: ACC      S0.W                at 88           ; 41 later: the sum, in every lane

; 1 / sqrt(sum / 320 + eps), chained through the four ranks; x and w join on the way
VXM0:     MULI.f32 _, S0.W, 0.003125   at 106          ; 18 hops from the plane; out in 113
VXM1:     ADDI.f32 _, A0, 1e-5         at 113
VXM2:     RSQRT.f32 _, A1              at 116          ; out in 119
x:        READ     S4.E                arrive 115 VXM
VXM3:     MUL.f32  _, A2, S4.E         at 115          ; the stream enters for 4 cycles and meets A2 in 119
w:        READ     S8.E                arrive 118 VXM
VXM0:     MUL.f32  S12.E, A3, S8.E     at 118          ; meets A3 in 122, out in 125
y:        WRITE    S12.E               leave 125 VXM

.expect   y (x / sqrt(mean(x * x) + 1e-5) * w) 2e-3
.expect   cycles 145                                   ; 125 + 1 for the WRITE + 19
