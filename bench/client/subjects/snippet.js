/** The interceptor that most applications copy. */
import axios from "axios";

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
  api.interceptors.response.use(undefined, async (error) => {
    const { config, response } = error;
    if (response?.status !== 401 || config._retry) throw error;
    config._retry = true;
    await send("/refresh", {});
    return api(config);
  });

  return { api, login: (body) => send("/login", body), restore: () => send("/refresh", {}) };
};
