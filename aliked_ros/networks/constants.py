"""Numbers that define ALIKED, shared by the PyTorch definitions and the compiled loops."""

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
NMS_RADIUS = 2  # pixels, of the non-maximum suppression and of the soft-argmax window
SOFT_ARGMAX_TEMPERATURE = 0.1
PAD_MULTIPLE = 32  # image sides are padded to multiples of the coarsest stride
