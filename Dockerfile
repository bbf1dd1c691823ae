# widenet as a program, on the CPU:
#
#     docker build -t widenet .
#     docker run --rm -v "$PWD:/workspace" widenet train digits
#
# On an NVIDIA GPU, from PyTorch's wheels for its CUDA:
#
#     docker build -t widenet:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#     docker run --rm --gpus all --shm-size 4g -v "$PWD:/workspace" widenet:cuda train digits

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
# PyTorch comes first, from its own index; the other dependencies then find it installed.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.9" "torchvision>=0.24"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[datasets,export]" && rm -r /wheels

# The numeric id lets Kubernetes see that it is not root. Where the mounted folder belongs to someone else, run with
# --user "$(id -u):$(id -g)"; the caches below can be written by anyone.
RUN useradd --uid 1000 --create-home widenet \
    && mkdir -p /workspace /cache \
    && chown widenet /workspace /cache \
    && chmod 1777 /cache
ENV HF_HOME=/cache/huggingface \
    MPLBACKEND=Agg \
    MPLCONFIGDIR=/cache/matplotlib \
    PYTHONUNBUFFERED=1 \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    XDG_CACHE_HOME=/cache
USER 1000
WORKDIR /workspace
ENTRYPOINT ["widenet"]
CMD ["--help"]
