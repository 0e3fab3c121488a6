"""Microbenchmarks: small kernels that isolate one mechanism of a GPU each, as `decodelab microbench` runs them."""
