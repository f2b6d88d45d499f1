"""Workers on other machines: replicas of a Ray Serve deployment draw what one server accepts."""
