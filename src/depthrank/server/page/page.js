import { attempt, onToken } from "./base.js";
import { pollNow, watch } from "./live.js";
import { begin, listen, rankFor } from "./try.js";

listen();
onToken(() => { attempt(begin); pollNow(); });
attempt(begin).finally(() => watch(rankFor));
