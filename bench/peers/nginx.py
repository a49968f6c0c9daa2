"""nginx: ``stream`` for TCP, ``proxy_pass`` for HTTP/1.1, ``grpc_pass`` for HTTP/2 (which is how it speaks HTTP/2 to an
upstream, one request at a time on each connection). A change is a reload.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.origin import find
from bench.peers.peer import Peer, Service, Speaks
from bench.process import MeasurementError

STREAM_MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))
POOL = 256

TOP = """\
{load}worker_processes {workers}; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 32768; }}
"""
HTTP = """\
    access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; http2_max_concurrent_streams 256;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_max_temp_file_size 0; proxy_buffers 16 64k;
    proxy_buffer_size 64k; proxy_read_timeout 1h; grpc_buffer_size 64k; grpc_read_timeout 1h;
"""


class Nginx(Peer):
    name = "nginx"
    debian = "nginx-light"

    @classmethod
    def version(cls) -> str | None:
        try:
            binary = find("nginx")
        except MeasurementError:
            return None
        return (
            subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr.split("/")[1].split()[0]
        )

    @classmethod
    def cannot(cls, service: Service) -> str:
        if service.speaks is Speaks.TCP and not cls._has_stream():
            return "its stream module is not installed (libnginx-mod-stream)"
        return ""

    @staticmethod
    def _has_stream() -> bool:
        return _stream_module() is not None or "--with-stream " in _build()

    def configure(self) -> list[str]:
        path = self.folder / "nginx.conf"
        self._write()
        return [find("nginx"), "-c", str(path), "-p", str(self.folder)]

    def prepare(self, service: Service) -> Callable[[], None]:
        self.services[service.name] = service
        self._write()
        return lambda: os.kill(self.pid, signal.SIGHUP)

    def _write(self) -> None:
        module = _stream_module()
        load = f"load_module {module};\n" if module is not None else ""
        layer4 = [service for service in self.services.values() if service.speaks is Speaks.TCP]
        layer7 = [service for service in self.services.values() if service.speaks is not Speaks.TCP]
        parts = [TOP.format(load=load if layer4 else "", workers=self.workers, folder=self.folder)]
        if layer4:
            servers = "\n".join(self._stream(service) for service in layer4)
            parts.append(f"stream {{\n    proxy_timeout 1h; proxy_buffer_size 64k;\n{servers}\n}}")
        if layer7:
            servers = "\n".join(self._http(service) for service in layer7)
            parts.append(f"http {{\n{HTTP.format(folder=self.folder)}{servers}\n}}")
        (self.folder / "nginx.conf").write_text("\n".join(parts) + "\n")

    def _verified(self, prefix: str) -> str:
        return (
            f"{prefix}_ssl_verify on; {prefix}_ssl_trusted_certificate {self.ca_file}; {prefix}_ssl_name localhost;"
            f" {prefix}_ssl_server_name on; {prefix}_ssl_protocols TLSv1.3;"
        )

    def _stream(self, service: Service) -> str:
        tls = f" proxy_ssl on; {self._verified('proxy')}" if service.tls else ""
        bind = f"listen {service.address}:{service.port} backlog=4096"
        return f"    server {{ {bind}; proxy_pass 127.0.0.1:{service.origin_port};{tls} }}"

    def _http(self, service: Service) -> str:
        prefix = "grpc" if service.is_http2 else "proxy"
        scheme = {"grpc": ("grpc", "grpcs"), "proxy": ("http", "https")}[prefix][service.tls]
        listen = f"listen {service.address}:{service.port} backlog=4096{' http2' if service.is_http2 else ''}"
        tls = f" {self._verified(prefix)}" if service.tls else ""
        return (
            f"    upstream {service.name} {{ server 127.0.0.1:{service.origin_port}; keepalive {POOL};"
            " keepalive_requests 1000000000; }\n"
            f"    server {{ {listen}; location / {{ {prefix}_pass {scheme}://{service.name};{tls} }} }}"
        )


def _stream_module() -> Path | None:
    return next(
        (folder / "ngx_stream_module.so" for folder in STREAM_MODULES if (folder / "ngx_stream_module.so").exists()),
        None,
    )


def _build() -> str:
    return subprocess.run([find("nginx"), "-V"], capture_output=True, text=True, check=True).stderr
