"""What is asked for a group, and when: its prompt, the parts that are sampled at once, and those that wait.

Everything follows from the configuration, the group's index and a version, so a group that is issued again is the
same group.
"""

from collections.abc import Sequence

from actors.config import AlignConfig
from actors.planes import sampling_of
from actors.records import GroupRequest, Message, Part, derive_seed, group_id
from algorithms.objective import Objective
from algorithms.prompt_order import prompt_at
from algorithms.sampling import Role, stages


class Requests:
    """Requests of one run.

    A group is sampled in one or two stages: `early` roles when it is admitted, `late` ones when its batch is at most
    `late_bound` versions away.
    """

    def __init__(self, config: AlignConfig, objective: Objective, prompts: Sequence[tuple[Message, ...]]) -> None:
        self._config = config
        self._prompts = prompts
        self._roles = objective.sampling.roles
        self._early, self._late, self.late_bound = stages(objective.sampling, config.loop.eta)

    @property
    def waits(self) -> bool:
        """Whether some roles wait."""
        return bool(self._late)

    def early(self, index: int, version: int) -> GroupRequest:
        """What is asked when the group is admitted, while engines serve `version`."""
        return self._request(index, version, self._early, 0)

    def late(self, index: int, version: int) -> GroupRequest:
        """What is asked for the batch of `version`; who writes an opponent may depend on it."""
        return self._request(index, version, self._late, sum(role.count for role in self._early))

    def _request(self, index: int, version: int, roles: Sequence[Role], place: int) -> GroupRequest:
        seed, parts = self._config.seed, []
        for role in roles:
            seeds = tuple(derive_seed(seed, "candidate", index, place + k) for k in range(role.count))
            sampling = sampling_of(self._config.rollout, role)
            parts.append(Part(role=role.name, policy=role.policy_at(version), seeds=seeds, sampling=sampling))
            place += role.count
        epoch, row = prompt_at(index, len(self._prompts), seed)
        return GroupRequest(
            id=group_id(seed, epoch, index),
            index=index,
            epoch=epoch,
            version=version,
            messages=self._prompts[row],
            parts=tuple(parts),
        )
