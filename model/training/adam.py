"""Adam for variables that do not all learn from the first step on, or not all as fast."""

from collections.abc import Mapping
from types import MappingProxyType

import keras
import tensorflow as tf


class Adam(keras.optimizers.Adam):
    """Adam whose bias correction counts the gradients of each variable, with learning rates of their own for some.

    Averages that begin at 0 are too small at first, and are divided by 1 - beta^t. A variable that gets its first
    gradient after many steps, as it was frozen, would not be corrected any more by the steps of the run: as the average
    of the squares grows the more slowly, its first steps would be up to 6.5 times as long as the learning rate allows,
    in just the weights that are to change little.

    Args:
        learning_rate: As for `keras.optimizers.Adam`.
        factors: By the names of variables, what their learning rate is multiplied by.
        name: What Keras calls the optimizer.

    References:
        Kingma, Ba: Adam: A Method for Stochastic Optimization, 2015, section 3.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        factors: Mapping[str, float] = MappingProxyType({}),
        name: str = "adam",
    ) -> None:
        super().__init__(learning_rate, name=name)
        self._by_name = factors

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes what is remembered of each variable."""
        if self.built:
            return
        super().build(variables)
        self._factors = [self._by_name.get(variable.name, 1.0) for variable in variables]
        self._gradients = [
            self.add_variable((), dtype="int64", name=f"gradients_{index}") for index in range(len(variables))
        ]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Makes a step by a gradient."""
        index = self._get_variable_index(variable)
        seen = self._gradients[index]
        self.assign(seen, seen + 1)
        by_own = self._correction(seen) / self._correction(self.iterations + 1)
        super().update_step(gradient, variable, learning_rate * by_own * self._factors[index])

    def _correction(self, steps: tf.Tensor) -> tf.Tensor:
        """Returns sqrt(1 - beta_2^t) / (1 - beta_1^t), by which the learning rate is multiplied."""
        t = tf.cast(tf.convert_to_tensor(steps), tf.float32)
        return tf.sqrt(1 - tf.pow(float(self.beta_2), t)) / (1 - tf.pow(float(self.beta_1), t))
