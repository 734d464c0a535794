"""A lease on a folder in a bucket: ``paramcrop.storage.lease`` for stores that are not file systems.

``lease/holder.json`` names the holder. Every write of it is conditional, which S3, GCS and Azure do atomically: it is
created only where there is none, and replaced only while it is the version that the writer has read. So of two
processes that want the folder, exactly one gets it, and a holder that was taken for dead sees that it has lost. The
holder writes the file again every few seconds; one that ends leaves an empty one. Ages are measured with the store's
clock. pyarrow has no conditional writes, so obstore opens the store that pyarrow opens.
"""

from __future__ import annotations

import configparser
import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import GCSStore, ObjectStore, S3Store, from_url

from paramcrop.errors import DataError, LeaseError
from paramcrop.storage.files import open_folder
from paramcrop.storage.lease import HEARTBEAT, STALE, has_ended, held_by, is_local, this_process, waiting_for
from paramcrop.storage.mirror import retry

if TYPE_CHECKING:
    from obstore import UpdateVersion

LONGEST = 60.0  # seconds that a beat to a store that does not answer may take
FILE = "lease/holder.json"
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "az")
RETRIES: Any = {"max_retries": 5}
PLAIN: Any = {"allow_http": True}  # for servers at an address of one's own


class Holder(NamedTuple):
    """The file: the fields of the process, or none if the folder is free; its version, and when it was written."""

    fields: dict[str, Any]
    version: UpdateVersion
    written: float


class BucketLease:
    """Context manager that holds the folder ``uri`` and releases it at the end.

    Args:
        say: receives one message if the holder may be dead, so that entering has to wait.

    Raises:
        LeaseError: on entering, if another live process holds the folder.
        DataError: on entering, if the store cannot be reached or has no conditional writes.
    """

    def __init__(self, uri: str, say: Callable[[str], None] = lambda text: None) -> None:
        self.uri, self.say, self.token = uri, say, uuid.uuid4().hex
        self.path = f"{uri}/lease/{self.token}"
        self._version: UpdateVersion = {}
        self._beats = 0
        self._ended = Event()
        self._beating = Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> BucketLease:
        try:
            self._store = object_store(self.uri)
            while not self._write(self._free_or_dead()):
                continue
            self._check_conditions()
        except (BaseError, OSError) as error:
            raise _unreachable(self.uri, "writable", error) from None
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # A process that exits while a thread uses S3 may crash.
        self._beating.join(LONGEST)
        with suppress(BaseError):  # another has taken it, or the store is unreachable: without beats it goes stale
            self._store.put(FILE, b"{}", mode=self._version)

    def _free_or_dead(self) -> Holder | None:
        """The file that may be replaced; None if there is none yet."""
        announced, before = False, None
        while (holder := _read(self._store)) is not None and self._is_alive(holder):
            if is_local(holder.fields) or before not in (None, holder.version):
                raise LeaseError(held_by(self.uri, holder.fields))
            if not announced:
                self.say(waiting_for(self.uri, holder.fields))
            announced, before = True, holder.version
            time.sleep(HEARTBEAT * 1.5)
        return holder

    def _is_alive(self, holder: Holder) -> bool:
        """False for no holder, a local process that has ended, and any process without a recent heartbeat."""
        if not holder.fields or holder.fields.get("token") == self.token or has_ended(holder.fields):
            return False
        return _now(self._store, self.token) - holder.written <= STALE

    def _write(self, holder: Holder | None) -> bool:
        """Write the file in place of ``holder``'s; False if another process was faster."""
        self._beats += 1
        fields = this_process() | {"token": self.token, "beat": self._beats}
        try:
            put = self._store.put(FILE, json.dumps(fields).encode(), mode=holder.version if holder else "create")
        except (AlreadyExistsError, PreconditionError):
            return False
        self._version = _version(put)
        return True

    def _check_conditions(self) -> None:
        """Raises:
        DataError: the store overwrites a file that is there; then two processes could hold the folder.
        """
        with suppress(AlreadyExistsError, PreconditionError):
            self._store.put(FILE, b"{}", mode="create")
            raise DataError(
                f"{self.uri} must be in a store with conditional writes (If-None-Match), but it ignores them"
            )

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with suppress(BaseError):  # the store is briefly unreachable
                if self._write(Holder({}, self._version, 0.0)):
                    continue
                holder = _read(self._store)
                if holder is None or holder.fields.get("token") != self.token:  # taken by another process
                    return
                self._version = holder.version  # an earlier beat arrived, but not its answer


def is_newest(path: str) -> bool:
    """Whether the process whose lease has this ``path`` still holds the folder."""
    uri, _, token = path.rpartition("/lease/")

    def look() -> bool:
        fs, root = open_folder(uri)
        with fs.open_input_stream(f"{root}/{FILE}") as source:
            return bool(json.loads(source.read()).get("token") == token)

    try:
        return retry(look)
    except (FileNotFoundError, ValueError):
        return False


def is_held(uri: str) -> bool:
    """Whether a live process holds the folder. Reading is enough; without leave to write, this machine's clock counts.

    Raises:
        DataError: the store cannot be reached.
    """
    try:
        store = object_store(uri)
        holder = _read(store)
    except BaseError as error:
        raise _unreachable(uri, "readable", error) from None
    if holder is None or not holder.fields or has_ended(holder.fields):
        return False
    try:
        now = _now(store, uuid.uuid4().hex)
    except BaseError:
        now = time.time()
    return now - holder.written <= STALE


def _unreachable(uri: str, what: str, error: Exception) -> DataError:
    return DataError(f"{uri} must be {what}: {' '.join(str(error).split())[:300]}")


def _read(store: ObjectStore) -> Holder | None:
    try:
        found = store.get(FILE)
        fields = json.loads(bytes(found.bytes()))
    except (NotFoundError, FileNotFoundError):
        return None
    except ValueError:
        fields = {}
    return Holder(fields, _version(found.meta), found.meta["last_modified"].timestamp())


def _version(facts: Any) -> UpdateVersion:
    """What identifies one version of a file: an ETag, or a generation on GCS."""
    found: Any = {name: facts[name] for name in ("e_tag", "version") if facts[name] is not None}
    version: UpdateVersion = found
    return version


def _now(store: ObjectStore, token: str) -> float:
    """The time on the store's clock."""
    path = f"lease/now-{token}"
    store.put(path, b"")
    try:
        return float(store.head(path)["last_modified"].timestamp())
    finally:
        store.delete(path)


def object_store(uri: str) -> ObjectStore:
    """The folder ``uri`` as an object store.

    Raises:
        DataError: its scheme has no conditional writes.
    """
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        raise DataError(f"{uri} must be a local folder or in S3, GCS or Azure ({', '.join(SCHEMES)}) to be written to")
    if scheme.startswith("a"):
        return from_url(uri, retry_config=RETRIES)
    fs, root = open_folder(uri)
    bucket, _, prefix = root.partition("/")
    if scheme != "s3":
        return GCSStore(bucket, prefix=prefix or None, retry_config=RETRIES)
    config: Any = {"region": fs.region}
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config | _keys(),
        client_options=PLAIN,
        retry_config=RETRIES,
        credential_provider=_provider(),
    )


def _provider() -> Any:
    """boto3's credentials, which know profiles and single sign-on, if it is installed and the user has an ~/.aws."""
    if "AWS_ACCESS_KEY_ID" in os.environ or not _aws().exists() or find_spec("boto3") is None:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()


def _keys() -> dict[str, str]:
    """The keys of ~/.aws/credentials, which obstore does not read; without any, it asks the machine for its role."""
    if "AWS_ACCESS_KEY_ID" in os.environ or not _aws().exists() or find_spec("boto3") is not None:
        return {}
    files = configparser.ConfigParser()
    files.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", _aws() / "credentials"))
    profile = os.environ.get("AWS_PROFILE", "default")
    section = files[profile] if files.has_section(profile) else {}
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {name.removeprefix("aws_"): section[name] for name in names if name in section}


def _aws() -> Path:
    return Path("~/.aws").expanduser()
