"""From a data set's name to normalised batches: `sources`, `resident`, `augment`."""
