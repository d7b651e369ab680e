"""What pairs of pictures and texts are like, before a model learns from them."""
