"""CTR models beside those of FuxiCTR."""
