"""The suite `objects`: GenEval's protocol on images of real named things."""
