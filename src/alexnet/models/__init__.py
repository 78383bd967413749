"""The network: its tables (`variants`) and changes of them (`ablations`), their arithmetic (`summary`), the module
(`network`), inference in 8 bits (`int8`) and the weights of others (`weights`)."""
