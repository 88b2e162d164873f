/** axios-auth-refresh, set up as its documentation says, with the token in memory. */
import axios from "axios";
import { createAuthRefresh } from "axios-auth-refresh";

export const make = () => {
  const api = axios.create();
  let token;
  const send = async (path, body) => {
    const { data } = await axios.post(`/auth${path}`, body, { headers: { "X-Keyturn": "1" } });
    token = data.access_token;
  };

  api.interceptors.request.use((config) => {
    if (token) config.headers.Authorization = `Bearer ${token}`;
    return config;
  });
  createAuthRefresh(api, async (failed) => {
    await send("/refresh", {});
    failed.response.config.headers.Authorization = `Bearer ${token}`;
  });

  return { api, login: (body) => send("/login", body), restore: () => send("/refresh", {}) };
};
