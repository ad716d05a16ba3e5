/** What who is logged in may do, so that the page offers nothing that the relay would refuse. The relay decides. */

import type { Me } from "./api";

/** Whether one of the rights allows `permission` on this robot. Which robots a group has only the relay knows. */
export function may(me: Me | undefined, permission: string, robot: string): boolean {
  return (me?.rights ?? []).some(({ permissions, on }) => permissions.includes(permission) && (on === "fleet" || on === `robot:${robot}` || on.startsWith("group:")));
}
