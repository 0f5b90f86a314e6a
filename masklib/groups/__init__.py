"""Groups: which elements live and die together (items), and which items compete (pools).

Every value is plain data: equal, hashable, picklable, and printing as the call that makes it. A value says how a tensor
of some shape is folded into pools, items and elements (`Folding`); nothing else in masklib asks what kind of value it
is, so one of your own works wherever one of these does.
"""

from masklib.groups._blocks import blocks as blocks
from masklib.groups._channels import channels as channels
from masklib.groups._coupled import coupled as coupled
from masklib.groups._elements import elements as elements
from masklib.groups._folding import Folding as Folding
from masklib.groups._heads import heads as heads
from masklib.groups._labels import labels as labels
from masklib.groups._plan import Groups as Groups
from masklib.groups._rows import rows as rows
from masklib.groups._windows import windows as windows
