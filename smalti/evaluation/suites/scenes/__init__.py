"""GenEval's protocol on scenes of flat shapes."""
