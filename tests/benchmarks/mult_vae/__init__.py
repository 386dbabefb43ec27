"""What trains Mult-VAE in place of shardrec for `bench_mult_vae.py`."""
