"""`synth`: any number of synthetic rows in the Criteo shape, with a planted signal of known best AUC."""
