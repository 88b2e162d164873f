import { Burst } from "./panels/Burst.tsx";
import { Devices } from "./panels/Devices.tsx";
import { Notes } from "./panels/Notes.tsx";
import { Password } from "./panels/Password.tsx";
import { Profile } from "./panels/Profile.tsx";
import { SessionLife } from "./panels/SessionLife.tsx";
import { Thief } from "./panels/Thief.tsx";

/** What somebody sees who is signed in. */
export const Session = () => (
  <div className="stack">
    <h1 tabIndex={-1} className="unseen">
      Your session
    </h1>
    <SessionLife />
    <div className="pair">
      <Notes />
      <Burst />
    </div>
    <Thief />
    <Devices />
    <div className="pair">
      <Profile />
      <Password />
    </div>
  </div>
);
