"""After which steps of a run there is something to do beside the next one."""

from dataclasses import dataclass

from model.training.evaluation import Validation


@dataclass(frozen=True)
class Dues:
    """What is due after a step.

    Attributes:
        to_come: The global steps that are going to be made; after the last one everything is due.
        steps_per_report: Steps between two points of the training curves.
        steps_per_checkpoint: Steps between two checkpoints; there is one with each evaluation, too.
        validation: What is evaluated beside training, if anything is.
        steps_per_mining: Steps of a round of offline mining, None where nothing is mined.
    """

    to_come: range
    steps_per_report: int
    steps_per_checkpoint: int
    validation: Validation | None
    steps_per_mining: int | None

    def report(self, step: int) -> bool:
        """Returns whether there is a point of the curves."""
        return self.is_last(step) or step % self.steps_per_report == 0

    def evaluation(self, step: int) -> bool:
        """Returns whether there is an evaluation."""
        return self.validation is not None and self.validation.is_due(step)

    def checkpoint(self, step: int) -> bool:
        """Returns whether there is a checkpoint."""
        return self.is_last(step) or self.evaluation(step) or step % self.steps_per_checkpoint == 0

    def mining(self, step: int) -> bool:
        """Returns whether a round of offline mining ends, so that the network is to embed images for the next one."""
        return self.steps_per_mining is not None and step % self.steps_per_mining == 0

    def anything(self, step: int) -> bool:
        """Returns whether there is any of these, or a first step, which shows whether all is well."""
        return step == self.to_come.start or self.report(step) or self.checkpoint(step) or self.mining(step)

    def is_last(self, step: int) -> bool:
        """Returns whether no step comes after it."""
        return step == self.to_come.stop - 1
