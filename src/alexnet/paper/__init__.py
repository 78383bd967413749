"""The paper, claim by claim: what it says, whether that holds, and the experiments that tell."""
