# s2s for CPUs: docker build -t s2s .
# docs/serving.md says how to use it.
FROM python:3.12-slim

# A C++ compiler, with which the fast kernels of decoding are built at first use.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/s2s
COPY .ci/constraints.txt .ci/
COPY setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
COPY s2s s2s
COPY s2s_cli s2s_cli
# PyTorch without CUDA comes from its own index, in the tested version.
RUN grep "^torch==" .ci/constraints.txt > torch.txt \
    && pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu -r torch.txt \
    && pip install --no-cache-dir -c .ci/constraints.txt ".[serve]"

# Files are read and written in /data, which is mounted; caches are in the home of a user without rights.
RUN useradd --create-home s2s
USER s2s
WORKDIR /data
EXPOSE 8000
CMD ["s2s-serve", "--help"]
