/** What codes mean to a person. */
import { AuthError, type ErrorCode, type Reason } from "keyturn";

type Told = { title: string; text: string; bad: boolean };

const REASONS: Record<Exclude<Reason, "never">, Told> = {
  logout: { title: "You logged out", text: "Every tab of this browser was told at once.", bad: false },
  logout_other_tab: {
    title: "You logged out in another tab",
    text: "This tab heard of it at once and let go of its access token.",
    bad: false,
  },
  expired: {
    title: "You are signed out",
    text: "There is no session any more. Log in to begin a new one.",
    bad: false,
  },
  inactivity: {
    title: "You were away for too long",
    text: "Nobody was active, so the session ended. Background refreshes do not count as activity.",
    bad: false,
  },
  absolute: {
    title: "The session has reached its longest life",
    text: "However busy it is, a session ends some day, and a person proves again who they are.",
    bad: false,
  },
  revoked: {
    title: "This session was ended from another device",
    text: "Somebody who is signed in as you ended it in their list of devices.",
    bad: true,
  },
  reuse_detected: {
    title: "Somebody else used a copy of your cookie",
    text: "Two parties held the same session and both went on. The server cannot tell which of them is you, so it ended the session for both. The list shows who did what.",
    bad: true,
  },
  password_changed: {
    title: "The password was changed",
    text: "All other sessions of the user ended with it. Log in with the new one.",
    bad: true,
  },
  user_disabled: { title: "This user is disabled", text: "Ask whoever runs the server.", bad: true },
  evicted: { title: "Too many sessions", text: "The oldest one made room for a new one.", bad: false },
};

/** Say why nobody is signed in; nothing to a first visitor. */
export const tellReason = (reason: Reason | null): Told | null =>
  !reason || reason === "never" ? null : (REASONS[reason] ?? REASONS.expired);

const ERRORS: Partial<Record<ErrorCode, string>> = {
  invalid_credentials: "The e-mail address or the password is not right.",
  invalid_request: "The server does not take this: the address is not one, or the password is too short or too common.",
  conflict: "This address has an account already. Log in instead.",
  throttled: "Too many attempts. Wait a little.",
  unavailable: "The server cannot do this right now. Nothing is lost; try again.",
  offline: "There is no network.",
  network: "The server does not answer.",
  timeout: "The server takes too long.",
  session_changed: "The session changed meanwhile.",
  not_found: "That is not there any more.",
};

export const tellError = (error: unknown): string =>
  error instanceof AuthError
    ? (ERRORS[error.code] ?? `It did not work (${error.code}).`)
    : "It did not work. Is the server still there?";

/** Say a duration in the largest unit that fits. */
export const tellSpan = (milliseconds: number): string => {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 180) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} hours` : `${Math.round(seconds / 86_400)} days`;
};

export const tellTime = (seconds: number): string => new Date(seconds * 1000).toLocaleTimeString();

export const tellDate = (text: string): string =>
  new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
