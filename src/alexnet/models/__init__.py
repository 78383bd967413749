"""The network: its tables (`variants`), arithmetic (`summary`), modules (`network`, `layers`) and weights."""
