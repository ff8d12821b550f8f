# Row 46: a syntax error.
# expect: load_error
class SiluAndMul(
