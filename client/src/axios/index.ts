export type { AuthClient } from "../core/types.ts";
