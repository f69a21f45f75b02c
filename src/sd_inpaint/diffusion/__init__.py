"""The model: weights, prompts, schedulers and the numbered steps of denoising. Only this package loads torch."""
