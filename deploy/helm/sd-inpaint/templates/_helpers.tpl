{{- define "sd-inpaint.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sd-inpaint.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sd-inpaint.labels" -}}
{{ include "sd-inpaint.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sd-inpaint.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ required "image.digest or image.tag: which image?" .Values.image.tag }}{{ end }}
{{- end }}

{{- define "sd-inpaint.secret" -}}
{{- if .Values.apiKeys.existingSecret }}{{ .Values.apiKeys.existingSecret }}{{ else if .Values.apiKeys.values }}{{ include "sd-inpaint.name" . }}{{ end }}
{{- end }}

{{- define "sd-inpaint.stateSecret" -}}
{{- if .Values.state.existingSecret }}{{ .Values.state.existingSecret }}{{ else if .Values.state.url }}{{ include "sd-inpaint.name" . }}-state{{ end }}
{{- end }}
