"""The only place that ranks: the lowest of a pool die, exactly, whatever holds the scores.

Among equal scores the lower index dies first; the dead are never looked at. `lowest` is one pool over tensors,
`lowest_in_rows` many short ones, `lowest_labelled` pools by label; `item_scores` makes one score of many. All are
operators that torch.compile, torch.export and torch.func see past.
"""

from masklib.selection._eager import direct as direct
from masklib.selection._eager import lowest as lowest
from masklib.selection._eager import lowest_in_rows as lowest_in_rows
from masklib.selection._items import REDUCED as REDUCED
from masklib.selection._numbers import Number as Number
from masklib.selection._numbers import as_tensor as as_tensor
from masklib.selection._numbers import dying as dying
from masklib.selection._operators import item_scores as item_scores
from masklib.selection._operators import lowest_labelled as lowest_labelled
from masklib.selection._operators import noise as noise
from masklib.selection._order import magnitude as magnitude
from masklib.selection._random import ELEMENTS as ELEMENTS
from masklib.selection._random import ITEMS as ITEMS
from masklib.selection._random import noise_at as noise_at
from masklib.selection._random import noise_like as noise_like
from masklib.selection._refusals import EXAMPLE as EXAMPLE
from masklib.selection._refusals import out_of_range as out_of_range
from masklib.selection._streamed import Streamed as Streamed
from masklib.selection._streamed import at_hand as at_hand
from masklib.selection._streamed import streamed as streamed
