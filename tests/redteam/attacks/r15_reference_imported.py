# Row 15: the reference imported and inherited from.
# expect: load_error
from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul as Base


class SiluAndMul(Base):
    pass
