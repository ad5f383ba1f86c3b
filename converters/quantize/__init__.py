"""Weights in fewer bits: which tensor gets which type, importance of weights, and the two quantizers, ours and
llama.cpp's."""
