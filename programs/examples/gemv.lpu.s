; y = W x with int8 weights: one 320 x 320 tile in 20 loads of 16 rows.
.chip   groq_tsp_v1
.data   W s8  [320,320] random 1 @E20:E35      ; row r in slice E20 + r % 16, word r // 16
.data   x s8  [1,320]   random 2 @E16
.data   y s32 [1,320]            @E8:E11
W:        READ  S0.E         arrive 16 MXM2 x20  ; 16 slices, 20 words each: streams S0 to S15
MXM2.LW:  LW.s8 S0.E, 16, 0  at 16 x20           ; rows 0 to 15, then 16 to 31, ...
MXM2.LW:  IW.s8              at 36
x:        READ  S16.E        arrive 36 MXM2
MXM2.ABC: ABC.s8 S16.E       at 36               ; new weights work in the cycle of their IW
MXM2.ACC: ACC   S0.W         at 76               ; 40 cycles later
y:        WRITE S0.W         leave 76 MXM2
.expect   y (W @ x)
; y is 15 hops on: WRITE in 91, done in 92; superlane 19 is 19 cycles behind: 111 cycles
