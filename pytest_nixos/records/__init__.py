"""Records of verified checks: what one says, whether it proves a check, where it lies. No pytest, no VM."""
