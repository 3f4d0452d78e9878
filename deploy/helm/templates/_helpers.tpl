{{- define "gateway.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "gateway.image" -}}
{{- if .Values.image.digest }}{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* Not empty if there is a Redis. */ -}}
{{- define "gateway.redis" -}}
{{- with .Values.redis }}
{{- if contains "@" .url }}
{{- fail "redis.url: it has a password: put the URL into a Secret, and name that in redis.secret" }}
{{- end }}
{{- .secret.name | default .url }}
{{- end }}
{{- end }}

{{- /* The route table, with the times that the pod's grace period is made of. */ -}}
{{- define "gateway.routes" -}}
{{- range $key, $why := dict
  "listen" "the container listens on port 8000, and service.port is another matter"
  "probes" "the container answers them on port 9902"
  "shutdown_delay" "set shutdownDelaySeconds instead"
  "drain_timeout" "set drainTimeoutSeconds instead" }}
{{- if hasKey ($.Values.config.gateway | default dict) $key }}
{{- fail (printf "config.gateway.%s: leave it out: %s" $key $why) }}
{{- end }}
{{- end }}
{{- $times := dict
  "shutdown_delay" (printf "%ds" (int .Values.shutdownDelaySeconds))
  "drain_timeout" (printf "%ds" (int .Values.drainTimeoutSeconds)) }}
{{- $gateway := mergeOverwrite (deepCopy (.Values.config.gateway | default dict)) $times }}
{{- if include "gateway.redis" . }}
{{- $shared := deepCopy ($gateway.shared | default dict) }}
{{- if hasKey $shared "redis" }}
{{- fail "config.gateway.shared.redis: leave it out: the chart adds it, since redis is set" }}
{{- end }}
{{- $_ := set $gateway "shared" (set $shared "redis" "${REDIS_URL}") }}
{{- end }}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) (dict "gateway" $gateway)) }}
{{- end }}
