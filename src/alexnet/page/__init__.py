"""A local web page that shows what a trained network makes of a picture."""
