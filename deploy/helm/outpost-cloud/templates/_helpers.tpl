{{- define "outpost-cloud.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "outpost-cloud.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "outpost-cloud.labels" -}}
{{ include "outpost-cloud.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "outpost-cloud.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "outpost-cloud.fullname" .) -}}
{{- end -}}

{{- define "outpost-cloud.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* "true" where TLS, or HTTP/3, is served. */}}
{{- define "outpost-cloud.tls" -}}
{{- if not .Values.config.plaintext }}true{{ end -}}
{{- end -}}
{{- define "outpost-cloud.http3" -}}
{{- if and (include "outpost-cloud.tls" .) (ne (toString .Values.config.http3) "false") }}true{{ end -}}
{{- end -}}

{{/* Seconds that the service takes to drain; 10 is its own default. */}}
{{- define "outpost-cloud.drainSeconds" -}}
{{- $seconds := dig "limits" "drain_timeout_seconds" nil .Values.config -}}
{{- ternary 10 $seconds (kindIs "invalid" $seconds) | int -}}
{{- end -}}

{{/* The service's configuration: the values' `config` with what is the chart's to say. */}}
{{- define "outpost-cloud.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- range list "address" "operations_address" "models" -}}
{{- if hasKey $config . }}{{ fail (printf "config.%s is the chart's: see listen, service, operations and models" .) }}{{ end -}}
{{- end -}}
{{- $own := dict
  "address" (printf "%s:8443" .Values.listen)
  "operations_address" (printf "%s:9464" .Values.listen)
  "models" "/models" -}}
{{- if include "outpost-cloud.tls" . -}}
{{- $_ := set $own "tls" (dict "certificate" "/certificates/tls.crt" "key" "/certificates/tls.key") -}}
{{- end -}}
{{- include "outpost-cloud.toml" (dict "table" (mergeOverwrite $config $own) "path" "") -}}
{{- end -}}

{{/* A table as TOML: first its values, then the tables in it. JSON's strings, numbers and lists are TOML's too. */}}
{{- define "outpost-cloud.toml" -}}
{{- $path := .path -}}
{{- $tables := list -}}
{{- range $key, $value := .table -}}
{{- $name := regexMatch "^[A-Za-z0-9_-]+$" $key | ternary $key (toRawJson $key) -}}
{{- if kindIs "map" $value -}}
{{- $tables = append $tables (dict "head" (printf "[%s%s]" $path $name) "table" $value "path" (printf "%s%s." $path $name)) -}}
{{- else if and (kindIs "slice" $value) $value (kindIs "map" (first $value)) -}}
{{- range $value -}}
{{- $tables = append $tables (dict "head" (printf "[[%s%s]]" $path $name) "table" . "path" (printf "%s%s." $path $name)) -}}
{{- end -}}
{{- else if not (kindIs "invalid" $value) }}
{{ $name }} = {{ toRawJson $value }}
{{- end -}}
{{- end -}}
{{- range $tables }}

{{ .head }}
{{- include "outpost-cloud.toml" . -}}
{{- end -}}
{{- end -}}
