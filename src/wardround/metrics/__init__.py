"""How well a mask agrees with the reference: `score.score_case` gives values that merge across sites."""
