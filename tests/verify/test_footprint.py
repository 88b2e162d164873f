"""A service that only checks tokens installs cryptography and nothing else, and starts at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.tokens.forge import AUDIENCE, ISSUER, NOW, sign
from tests.verify.publisher import Publisher

ROOT = Path(__file__).parents[2]
# Everything installed but the standard library, us, and what cryptography itself needs.
PROGRAM = """
import json, sys

class Refusing:
    allowed = {*sys.stdlib_module_names, "keyturn", "cryptography", "cffi", "_cffi_backend", "pycparser"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Refusing())

from keyturn.verify import Guard, InvalidToken, Requirement, Verifier, refusal

url, issuer, audience, now, token = json.loads(sys.argv[1])
verifier = Verifier(issuer, audience, jwks_url=url, clock=lambda: now)
guard = Guard(verifier, clock=lambda: now)
user = guard.check([b"Bearer " + token.encode()], Requirement(scopes=("notes",))).user_id
try:
    guard.check([b"Bearer " + token[:-4].encode() + b"AAAA"])
except InvalidToken as refused:
    status = refusal(refused).status
first = {name.partition(".")[0] for name in sys.modules} - Refusing.allowed
print(json.dumps([user, status, sorted(name for name in first if not name.startswith("_"))]))
"""


def test_third_party_imports_refused(publisher: Publisher) -> None:
    """A whole check, from the fetch of the keys to the answer of a refusal, without a package but cryptography."""
    url = f"{publisher.base}/.well-known/jwks.json"
    arguments = json.dumps([url, ISSUER, AUDIENCE, NOW, sign(scope="notes")])
    # -S: no site-packages with their start-up files; -I would hide the path given here.
    paths = [str(ROOT / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    program = f"import sys; sys.path[1:1] = {paths!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-S", "-c", program, arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["ada", 401, []]
