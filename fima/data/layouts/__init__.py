"""The layouts in which video data sets lie on a disk: one module each, listed in `fima.data.datasets.LAYOUTS`."""
