// What the parts of the page know in common, and how they hear of its changes.

const bus = new EventTarget();

export const state = {
  status: null, // the answer of GET /status
  role: "", // of the token: "", "read", "user=NAME"
  me: "", // whose bridges are "mine"
  down: "", // why the API does not answer
};

export const on = (name, does) => bus.addEventListener(name, (event) => does(event.detail));
export const tell = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

/** Why something may not be changed, or "". user: whose bridge it is; undefined: it is no bridge. */
export function mayNot(user) {
  const role = state.role;
  if (role === "read") return "this token may only read";
  if (!role.startsWith("user=")) return "";
  const mine = role.slice(5);
  return user === mine ? "" : `this token may only change the bridges of ${mine}`;
}

/** Values that a visit leaves for the next one; a browser without a store forgets them. */
export const kept = {
  get(name) {
    try {
      return localStorage.getItem(`carrier.${name}`) ?? "";
    } catch {
      return "";
    }
  },
  set(name, value) {
    try {
      if (value) localStorage.setItem(`carrier.${name}`, value);
      else localStorage.removeItem(`carrier.${name}`);
    } catch {
      // nothing is kept
    }
  },
};

/** Everybody who has a bridge. */
export const users = () => [...new Set((state.status?.bridges ?? []).map((bridge) => bridge.user))].filter(Boolean).sort();
