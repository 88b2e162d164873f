import { withAuthRewrites } from "keyturn/next";

export default withAuthRewrites({ reactStrictMode: true });
