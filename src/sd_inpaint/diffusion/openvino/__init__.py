"""A second backend for CPUs: the UNet, converted once and run by OpenVINO."""
