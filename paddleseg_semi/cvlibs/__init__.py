from paddleseg_semi.cvlibs.builder import SemiBuilder
from paddleseg_semi.cvlibs.config import SemiConfig

__all__ = ['SemiBuilder', 'SemiConfig']
