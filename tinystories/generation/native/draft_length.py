"""How many tokens to draft, from the measured times of drafts and passes, and the acceptance rate of the sequence.

Times are those of the processor in the calling thread, so that other processes on the machine affect them less.
"""

from collections import defaultdict, deque
from statistics import median


ROWS = (3, 6, 9, 12, 15, 18, 24)  # tokens of a pass, the first of which is not drafted; step.c is fastest with these
FIRST_ROWS = 9  # of the first drafts, whose times are measured
MEASUREMENTS = 5  # drafts, before drafting can be switched off because of its time
TIMES = 9  # the last ones, of which the median is used
PRIOR = (30, 1)  # tokens accepted and rejected, with which the acceptance rate of a sequence begins
MEMORY = 200  # tokens, after which older ones count half
GAIN = 1.05  # drafting is used if it is expected to be faster by this factor
PAUSE = 20  # sequences without drafts, after drafting was not faster


class Costs:
    """Measured seconds of one model's drafts and passes, over all sequences."""

    def __init__(self) -> None:
        self._pause = 0
        self._drafts: deque[float] = deque(maxlen=TIMES)
        self._passes: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=TIMES))

    def pays(self) -> bool:
        """Whether to draft for a new sequence."""
        self._pause = max(0, self._pause - 1)
        return not self._pause

    def pause(self) -> None:
        """Draft for none of the next sequences; then measure anew."""
        self._pause = PAUSE
        self._drafts.clear()

    def add_draft(self, tokens: int, seconds: float) -> None:
        self._drafts.append(seconds / tokens)

    def add_pass(self, tokens: int, seconds: float) -> None:
        self._passes[tokens].append(seconds)

    @property
    def drafts(self) -> int:
        """Measured drafts, at most `TIMES`."""
        return len(self._drafts)

    def speeds(self, rate: float) -> dict[int, float]:
        """Expected tokens per second for each number of tokens in a pass, with an acceptance rate below 1.

        Passes of one token and drafts must have been measured. A pass of a number of tokens that was not measured is
        taken to be as fast as another one allows, so that it will be.
        """
        # Copies, since another thread may add times.
        times = {tokens: median(seconds) for tokens, seconds in list(self._passes.items())}
        single, draft = times[1], median(self._drafts)
        per_token = min((max(0.0, times[rows] - single) / (rows - 1) for rows in times if rows > 1), default=0.0)
        speeds = {1: 1 / single}
        for rows in ROWS:
            expected = (1 - rate**rows) / (1 - rate)  # tokens up to the first one that is rejected
            speeds[rows] = expected / ((rows - 1) * draft + times.get(rows, single + (rows - 1) * per_token))
        return speeds


class DraftLength:
    """Chooses how many tokens of one sequence to draft.

    Attributes:
        off: whether drafting is not faster; then it is not used for the rest of the sequence.
    """

    def __init__(self, costs: Costs):
        self.off = False
        self._costs = costs
        self._accepted, self._rejected = map(float, PRIOR)
        self._passes = 0

    def judge(self, accepted: bool) -> None:
        """Count a drafted token."""
        if self._accepted + self._rejected > MEMORY:
            self._accepted, self._rejected = self._accepted / 2, self._rejected / 2
        self._accepted += accepted
        self._rejected += not accepted

    def choose(self) -> int:
        """The number of tokens to draft next."""
        self._passes += 1
        if self._passes <= 2:  # passes of one token, measured for each sequence, since the load of the machine changes
            return 0
        if self._costs.drafts < MEASUREMENTS:
            return FIRST_ROWS - 1
        rows, faster = self._fastest(self._accepted / (self._accepted + self._rejected))
        if not faster:
            self.off = True
            if not self._fastest(PRIOR[0] / sum(PRIOR))[1]:
                self._costs.pause()
            return 0
        return rows - 1

    def _fastest(self, rate: float) -> tuple[int, bool]:
        """The fastest number of tokens in a pass, and whether it is faster than no draft."""
        speeds = self._costs.speeds(rate)
        rows = max(ROWS, key=speeds.__getitem__)
        return rows, speeds[rows] > GAIN * speeds[1]
