"""The two composed tasks as environments: one scene each, with both entities, from the package's own parts.

make-coffee is the package's scene of coffee-push as it is, whose machine has its button. locked-door-open
starts from the package's door with a lock; there the door is part of the wall, so it is given the hinge and
the panel that the package's other door has, and a bolt: a constraint that holds the hinge until the second
stage.

What `target_location` is, in stage one and two (the judge tells the stages apart by it, and moves it on):

=================  ============================================  =============================================
task               first stage                                   second stage
=================  ============================================  =============================================
make-coffee        the mug's place, on the table (as in          the button pressed in, z = 0.3 (as in
                   coffee-push)                                  coffee-button)
locked-door-open   the lever turned, at the door: 0.158 m        the open door's handle: (-0.3, -0.45, 0) from
                   before its middle in y (as in door-unlock)    its middle (as in door-open)
=================  ============================================  =============================================

Each reset starts in stage one, with the door shut and bolted.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's classes live in a compiled module without type stubs.)

from __future__ import annotations

import mujoco
import numpy as np
from gymnasium.spaces import Box
from metaworld.envs.sawyer_coffee_push_v3 import SawyerCoffeePushEnvV3
from metaworld.envs.sawyer_door_unlock_v3 import SawyerDoorUnlockEnvV3

# Half sizes of the door's panel, of the door with a lock and of the one that opens.
WALLED_IN, FREE = (0.184, 0.01, 0.124), (0.18, 0.01, 0.123)
LOCKED = 1.5708  # radians: the lever hangs down
UNLOCKED = np.array([0.1, -0.04, 0.0])  # from the lever's hinge to where its end goes


class LockedDoorOpen(SawyerDoorUnlockEnvV3):
    """Turn the lock's lever, then open the door."""

    def __init__(self) -> None:
        super().__init__()
        # Where the package's door that opens may stand: nearer, its handle would swing out of reach.
        low, high = np.array([0.0, 0.85, 0.15]), np.array([0.1, 0.95, 0.15])
        self._random_reset_space = Box(low, high, dtype=np.float64)
        before = [bit for bit in range(mujoco.mjtState.mjSTATE_EQ_ACTIVE.value) if not bit & (bit - 1)]
        self.bolt: int = mujoco.mj_stateSize(self.model, sum(before)) + self.model.equality("bolt").id

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Compile the scene with a hinge and a bolt, in the place of the file alone."""
        spec = mujoco.MjSpec.from_file(self.fullpath)
        door = spec.body("door_link")
        door.add_joint(
            name="doorjoint", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], range=[-2, 0], limited=True
        )
        spec.body("lock_link").joints[0].name = "lever"
        panel = next(geom for geom in door.geoms if np.allclose(geom.size, WALLED_IN))
        panel.size = FREE  # as wide as the frame, it could not swing
        handle = next(geom for geom in door.geoms if geom.meshname == "door_handle")
        handle.name = "handle"
        bolt = spec.add_equality(name="bolt", type=mujoco.mjtEq.mjEQ_JOINT, name1="doorjoint")
        bolt.objtype = mujoco.mjtObj.mjOBJ_JOINT
        model = spec.compile()
        return model, mujoco.MjData(model)

    def reset_model(self) -> np.ndarray:
        """Begin with the door shut and bolted and the lever down."""
        self._reset_hand()
        place = self._get_state_rand_vec()
        self.model.body("door").pos = place
        self.data.joint("doorjoint").qpos = self.data.joint("doorjoint").qvel = 0.0
        self.data.joint("lever").qpos, self.data.joint("lever").qvel = LOCKED, 0.0
        mujoco.mj_forward(self.model, self.data)
        self._target_pos = self.data.body("lock_link").xpos + UNLOCKED
        return self._get_obs()


COMPOSED: dict[str, type[SawyerCoffeePushEnvV3 | LockedDoorOpen]] = {
    "make-coffee": SawyerCoffeePushEnvV3,
    "locked-door-open": LockedDoorOpen,
}
